"""Settings: TOML -> frozen typed values; addresses."""
