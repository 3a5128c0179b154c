"""What a provider says that it billed, beside what the ledger knows; and settling what only the provider knew."""
