"""The pool side: generations, the holder and the swap. It knows nothing of Vault."""

from vault_pg.pool.burial import bury
from vault_pg.pool.drain import Replacement
from vault_pg.pool.generation import Borrow, Drained
from vault_pg.pool.holder import CheckoutRefused, HotSwapPool
from vault_pg.pool.leased import LeasedPool, build, prove_login

__all__ = ["Borrow", "CheckoutRefused", "Drained", "HotSwapPool", "LeasedPool", "Replacement", "build", "bury", "prove_login"]
