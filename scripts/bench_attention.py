#!/usr/bin/env python3
"""One cross-attention, one decoding step: see bench/attention.py."""

import checkout
from bench.attention import main

if __name__ == "__main__":
    main()
