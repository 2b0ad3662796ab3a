"""Many seeded trials of what must never happen, by claim. pytest runs a short part: `tests/test_campaign.py`."""
