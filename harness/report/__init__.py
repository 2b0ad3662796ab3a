"""Reports: documents as plain data, and what people see of them.

- `document`, `audit_document`, `diff_document`, `diagnosis`: the documents, three of them with a JSON Schema.
- `reading`, `audit_contradictions`, `pairing`, `diff_assembly`: saved documents, and two compared.
- `findings`, `summary`, `agreement`, `choices`, `contract`, `criteria`: what follows from the results.
- `wording`: the same in words.
- `blocks`, `tables`: what a page is made of: text, tables, findings, ladders, sections.
- `pages`: from each kind of document to blocks: what a report says, and in which order.
- `terminal`, `markdown`, `html` with its `templates`: from blocks to how a report looks. JUnit is in `junit`.
- `views`, `output`: the views by the name of their option, written whole or not at all.
"""
