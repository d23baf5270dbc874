"""The search for settings (paper, Appendix A.3.3): what is typed, trials by ask and tell, what was found."""
