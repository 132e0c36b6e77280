"""The paper's tables and figures: ablation, analysis, Fig. 6."""
