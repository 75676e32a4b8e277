"""One file per architecture: frozen config, module, the paper's defaults."""
