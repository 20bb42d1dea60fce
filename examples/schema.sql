-- The database of the example. Leased roles come and go, so the tables belong to a role that stays, and each leased role is a
-- member of one that may use them: nothing has to be granted when a role is made, nor revoked when it is dropped.
CREATE ROLE shop_owner NOLOGIN;
CREATE ROLE shop_readwrite NOLOGIN;

ALTER SCHEMA public OWNER TO shop_owner;
GRANT USAGE ON SCHEMA public TO shop_readwrite;

SET ROLE shop_owner;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO shop_readwrite;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE ON SEQUENCES TO shop_readwrite;

CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    item text NOT NULL,
    ordered_at timestamptz NOT NULL DEFAULT now()
);
RESET ROLE;
