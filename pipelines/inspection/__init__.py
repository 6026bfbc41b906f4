"""`handnet data check`: what of a dataset is there, whether its labels fit its pictures, and a sheet of them to look at."""
