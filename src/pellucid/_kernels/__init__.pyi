from typing import Any

def __getattr__(name: str) -> Any: ...  # Cython modules without a stub of their own
