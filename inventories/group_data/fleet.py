"""Settings of the group `fleet`; they go before those of prod.py."""

profile = "concurrent"
