"""The manager floor: what ties the Vault side to the pool side. Import from `vault_pg`."""
