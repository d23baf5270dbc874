"""The search for settings (paper, Appendix A.3.3): spaces, trials over a storage that machines share, what was found."""
