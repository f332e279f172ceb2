"""PEFT's own tests, unchanged, run over our methods; `make conformance` starts them."""
