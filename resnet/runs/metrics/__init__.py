"""What a run tells while it trains: records, boards, curves, telemetry."""
