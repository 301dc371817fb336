package archive

func template(o Options) string { return "{}" }
