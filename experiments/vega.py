"""Write the script that draws DVC's curves in a browser, so that their page needs no network (`make plots`)."""

import sys
from pathlib import Path

import vl_convert

from layerpipe2.runs.records import output_file, write_text

if __name__ == "__main__":
    write_text(output_file(Path(sys.argv[1])), vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
