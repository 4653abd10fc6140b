"""How far Pellucid is from full precision: stored and live comparisons with transformers in float32."""
