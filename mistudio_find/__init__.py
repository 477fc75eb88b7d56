"""miStudio find."""
