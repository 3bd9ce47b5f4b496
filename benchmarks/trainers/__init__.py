"""Who trains in `bench training`, each in a process of its own (`__main__`).

A runner is a class with `__init__(task)`, `train(steps, objective)` and `settings`, a sentence on what it trains.
"""

from .bare import Bare, BareFused
from .ours import Ours, OursCompiled, OursInFull, OursOffloaded, OursWithText
from .stock import Stock, StockAsShipped, StockBypass

RUNNERS = {
    "bare": Bare,
    "bare_fused": BareFused,
    "ours": Ours,
    "ours_in_full": OursInFull,
    "ours_offload": OursOffloaded,
    "ours_compiled": OursCompiled,
    "ours_text": OursWithText,
    "stock": Stock,
    "stock_bypass": StockBypass,
    "stock_as_shipped": StockAsShipped,
}
