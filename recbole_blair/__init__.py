"""Text-based sequential recommendation on RecBole, around BLaIR. Loads neither transformers nor ray."""

__version__ = "0.1.0"
