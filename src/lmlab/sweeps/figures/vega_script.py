"""The JavaScript that draws a figure in a page."""

from __future__ import annotations

from contextlib import suppress

from lmlab.data.sources.download import cache_dir
from lmlab.files import write_atomically


def vega_script() -> str:
    """It defines `vegaEmbed`. Bundling it takes seconds, so it is kept."""
    import vl_convert

    kept = cache_dir() / f"vega-embed-{vl_convert.get_vega_embed_version()}.js"
    with suppress(OSError):
        return kept.read_text("utf-8")
    bundle = str(vl_convert.javascript_bundle())  # type: ignore[call-arg]
    bundle = bundle.replace("</script", "<\\/script")
    with suppress(OSError):
        write_atomically(kept, bundle.encode(), parents=True)
    return bundle
