"""What decoding keeps: the cache of every attention, in its layouts."""
