"""model ↔ `bursar.v1`: the only converter. `spec` for what is asked and found, `view` for what is shown.

Why     one place knows both vocabularies, so the wire can grow without a second reader drifting.
"""
