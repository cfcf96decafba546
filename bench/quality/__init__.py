"""How well the system learns to translate from few videos: variants, scores, tables and sheets."""
