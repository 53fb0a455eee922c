"""Methods side by side: tuned alike, measured alike, in one table."""
