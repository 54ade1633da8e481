"""What `fit` does before and after it trains: its configuration, its trainer, its last lines."""
