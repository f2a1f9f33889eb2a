"""Feature rows on disk."""

from tamis.store.feature_store import FeatureStore

__all__ = ["FeatureStore"]
