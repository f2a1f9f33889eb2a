"""Feature rows on disk."""

from tamis.store.feature_store import FeatureStore
from tamis.store.quantize import EncodedRows, StoreDtype
from tamis.store.rows import StoredRows

__all__ = ["EncodedRows", "FeatureStore", "StoreDtype", "StoredRows"]
