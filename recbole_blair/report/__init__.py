"""Reading results: breakdowns of one run, paired tests between runs, and a page that holds it all."""
