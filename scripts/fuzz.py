#!/usr/bin/env python3
"""Decode random models with random searches as stock does and in every way there is here: see tests/helpers/fuzz.py."""

import sys

import checkout

if __name__ == "__main__":
    sys.exit(checkout.module_of_tests("helpers.fuzz").main())
