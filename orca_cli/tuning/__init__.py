"""The search for settings (paper, Appendix A.3.3): spaces, trials by ask and tell, what was found."""
