# Python's tools for the templates, in .cache/venv. To be sourced from the top of the project.
if ! [ -f .cache/venv/.requirements ] || ! cmp -s test/deploy/requirements.txt .cache/venv/.requirements; then
	echo "installing Python packages into .cache/venv: $(cut -d= -f1 test/deploy/requirements.txt | tr '\n' ' ')"
	if ! python3 -m venv .cache/venv >/dev/null 2>&1; then
		echo "installing from the distribution's packages: python3-venv"
		as_root=()
		[ "$(id -u)" = 0 ] || as_root=(sudo)
		"${as_root[@]}" apt-get update -qq
		DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq python3-venv >/dev/null
		python3 -m venv .cache/venv
	fi
	.cache/venv/bin/pip install -q --disable-pip-version-check -r test/deploy/requirements.txt
	cp test/deploy/requirements.txt .cache/venv/.requirements
fi
