#!/bin/sh
# What an operator of Vault does once for a service: the database engine with a role, the least policy, and an AppRole to log in with.
# Needs the `vault` command, VAULT_ADDR, a VAULT_TOKEN that may do all this, and the variables below. May be run again.
set -eu

: "${POSTGRES_ADDRESS:?host:port, as Vault sees it}"
: "${POSTGRES_PASSWORD:?the password of the administrator postgres}"
: "${ROLE_ID:?what the service logs in as}"
: "${SECRET_ID_FILE:?where to put what it logs in with}"

enabled() { # enabled secrets|auth PATH/
    vault "$1" list -format=json | grep -q "\"$2\""
}

enabled secrets database/ || vault secrets enable database

# A role with CREATEROLE, and ADMIN OPTION on shop_readwrite, is enough for Vault; a superuser keeps the example short.
printf '%s' "$POSTGRES_PASSWORD" | vault write database/config/shop \
    plugin_name=postgresql-database-plugin \
    allowed_roles=shop \
    connection_url="postgresql://{{username}}:{{password}}@$POSTGRES_ADDRESS/shop?sslmode=disable" \
    username=postgres \
    password=-

vault write database/roles/shop \
    db_name=shop \
    default_ttl="${LEASE_TTL:-1h}" \
    max_ttl="${LEASE_MAX_TTL:-24h}" \
    creation_statements="CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE shop_readwrite;"

# Read the credential, renew its lease, revoke it: a service needs no more. Its token renews and revokes itself by the default policy.
vault policy write shop - <<'POLICY'
path "database/creds/shop" { capabilities = ["read"] }
path "sys/leases/renew"    { capabilities = ["update"] }
path "sys/leases/revoke"   { capabilities = ["update"] }
POLICY

enabled auth approle/ || vault auth enable approle
vault write auth/approle/role/shop token_policies=shop token_ttl=1h token_max_ttl=24h
vault write auth/approle/role/shop/role-id role_id="$ROLE_ID"

umask 077
vault write -f -field=secret_id auth/approle/role/shop/secret-id > "$SECRET_ID_FILE"
if [ -n "${SECRET_ID_OWNER:-}" ]; then chown "$SECRET_ID_OWNER" "$SECRET_ID_FILE"; fi
