"""Tables and plots of what was measured; needs no accelerator."""
