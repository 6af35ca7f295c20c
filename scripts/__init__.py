"""A package, so that ``python -m scripts.bench.linear`` and the examples find it from the checkout's folder."""
