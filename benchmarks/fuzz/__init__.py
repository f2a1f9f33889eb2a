"""Coverage-guided fuzzing (atheris): whatever the bytes, only tamis's own errors come out.

python -m benchmarks.fuzz readers | config | store [--seconds 600]

Each target is a module with `SEEDS` (bytes to start from) and `one(data)`, which raises for a finding. Needs the extra
`fuzz`. Findings are kept as files and their tracebacks printed, each place once; the run goes on.
"""
