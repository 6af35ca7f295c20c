"""What tests share; the package itself imports nothing, so that commands run without el_fairseq."""
