"""What pip finds where it is asked to install this project: a line that says what to do instead."""

import sys

sys.exit("error: this project is run in its folder and is no package; type: pip install -r requirements.txt, then "
         "python main.py --help; docs/guide/python.md imports it from elsewhere")
