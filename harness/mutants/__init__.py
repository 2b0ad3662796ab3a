"""Known porting bugs, planted on purpose: which of them can a golden see?"""
