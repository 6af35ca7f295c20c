#!/usr/bin/env python3
"""End-to-end decoding, stock against el_: see bench/decode.py."""

import checkout
from bench.decode import run

if __name__ == "__main__":
    run()
