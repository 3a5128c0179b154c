"""What the ledger says of money, time, failures, decisions and judges."""
