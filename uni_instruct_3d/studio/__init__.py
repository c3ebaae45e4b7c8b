"""The page in the browser: prompts in, previews while they grow, a queue, a gallery, comparisons.

The page keeps nothing: runs are folders that the pipeline writes, the queue is a folder of small files, and jobs are
processes of their own. A server that is killed or a page that is closed stops nothing and loses nothing.
"""
