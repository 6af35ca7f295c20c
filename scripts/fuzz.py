#!/usr/bin/env python3
"""Decode random models with random searches as stock does and in every way there is here: see tests/helpers/fuzz.py."""

import sys

import checkout

if __name__ == "__main__":
    checkout.find_tests()
    from helpers.fuzz import main

    sys.exit(main())
