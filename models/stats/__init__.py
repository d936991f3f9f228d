"""Pure statistics: intervals, thresholds, non-inferiority. Arrays in, numbers out."""
