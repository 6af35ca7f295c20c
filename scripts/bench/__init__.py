"""What measures: ``python -m scripts.bench.NAME`` from the folder of the checkout; --help says what each takes."""
