package journal

// CommitSource is the text of the commit script.
var CommitSource = commitSource
