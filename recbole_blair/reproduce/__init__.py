"""The papers' tables and our own, as commands with an expected value and a tolerance (props/reproduce/*.yaml)."""
