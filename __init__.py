"""VQAFusion: ask a picture a question, get ranked answers and where the model looked."""
