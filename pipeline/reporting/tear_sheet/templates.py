"""The Jinja2 templates of a report, as text in a module: DVC follows the modules of the package and no other files."""

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<title>{{ title }}</title>
<style>
{{ style }}</style>
</head>
<body>
<header>
<h1>{{ title }}</h1>
<nav aria-label="Sections">
{% for section in sections %}
<a href="#{{ section.anchor }}">{{ section.title }}</a>
{% endfor %}
</nav>
</header>
<main>
{% for section in sections %}
{% include "section" %}
{% endfor %}
</main>
{% if script %}
<script>
{{ script }}</script>
{% endif %}
</body>
</html>
"""

SECTION = """\
<section id="{{ section.anchor }}">
<h{{ section.level }}>{{ section.title }}</h{{ section.level }}>
<div class="blocks">
{% for block in section.blocks %}
{% include block.kind %}
{% endfor %}
</div>
</section>
"""

NOTE = """\
<p class="wide">{{ block.text }}</p>
"""

VERDICT = """\
<div class="wide">
<p class="summary">{{ block.summary }}</p>
<ul class="verdict">
{% for each in block.statements %}
<li class="{{ {"supported": "yes", "not supported": "no", "not known": "open"}[each.state] }}">
<span class="state">{{ each.state }}</span>
<b>{{ each.claim }}.</b>
{{ each.evidence }}
</li>
{% endfor %}
</ul>
</div>
"""

TABLE = """\
<div class="wide">
<div class="scroll" tabindex="0" role="region" aria-label="{{ block.title }}">
<table>
<caption>{{ block.title }}</caption>
{% if block.rows %}
<thead><tr>{% for name in block.head %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in block.rows %}
<tr>{% for cell in row %}{% if loop.first %}<th scope="row">{{ cell }}</th>{% else %}\
<td class="{{ "long" if cell|length > 40 else "short" }}">{{ cell }}</td>{% endif %}{% endfor %}</tr>
{% endfor %}
</tbody>
{% endif %}
</table>
</div>
{% if block.note %}
<p class="note">{{ block.note }}</p>
{% endif %}
</div>
"""

FIGURE = """\
<figure{% if block.is_wide %} class="wide"{% endif %}>
<figcaption>{{ block.title }}</figcaption>
{% if block.is_wide %}
<div class="scroll" tabindex="0" role="region" aria-label="{{ block.title }}">
{{ block.svg }}
</div>
{% else %}
{{ block.svg }}
{% endif %}
{% if block.note %}
<p class="note">{{ block.note }}</p>
{% endif %}
</figure>
"""

TEMPLATES = {
    "page": PAGE,
    "section": SECTION,
    "note": NOTE,
    "verdict": VERDICT,
    "table": TABLE,
    "figure": FIGURE,
}
