"""What a study leaves to read: statistics, verdicts, reports, the ledger."""
