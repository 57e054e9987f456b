"""The stages of the pipeline: files in, files out. One module for each file of workflow/rules."""
