"""u and near-infrared images of the HSC deep fields, as channels added to a trained image tokenizer."""
