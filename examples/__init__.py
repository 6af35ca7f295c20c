"""A package, so that ``python -m examples.translation.table`` works in the checkout's folder, with what is shared."""
